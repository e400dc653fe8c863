"""`python -m gpuproxy` is the command line."""

from gpuproxy.cli import main

if __name__ == "__main__":
    main()
