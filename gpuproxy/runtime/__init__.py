"""What every background step needs: accounts, limits, loops, writes that are repeated until they succeed."""
