"""python -m visus"""

from visus.cli.main import main

raise SystemExit(main())
