import sys

if "--check" in sys.argv:  # which leaves nothing behind: no compiled modules either
    sys.dont_write_bytecode = True

from provision.cli import main  # noqa: E402

main(prog_name="testbed")
