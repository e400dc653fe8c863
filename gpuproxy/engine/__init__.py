"""What the program does, without a wire, a driver or a marketplace.

Two rules hold throughout. Every paid effect is written down as intent before it happens and recorded after it, so a
crash at any point leaves rows that periodic steps can finish from. And decisions are plain functions from what is
known to what should be done; only small loops around them wait for anything.
"""
