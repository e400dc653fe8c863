"""Every RPC, once for both interfaces: who calls, until when, what an error becomes; one method an RPC."""
