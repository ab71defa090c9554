"""Entry point of the process `acs`. With `--attributes` it prints the capabilities of this machine and ends."""

from gevent import monkey

monkey.patch_all()

import sys

if __name__ == "__main__":
    if sys.argv[1:] == ["--attributes"]:
        from services.acs.listing import main

        sys.exit(main())
    from common import process
    from services.acs.service import serve

    sys.exit(process.run("acs", serve))
