"""Every RPC, written once for both interfaces: authentication, deadlines, errors, and one method for each RPC."""
