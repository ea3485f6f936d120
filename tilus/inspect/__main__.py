"""python -m tilus.inspect"""

import sys

from tilus.inspect import main

sys.exit(main())
