import sys

from minilm_np.cli import main

sys.exit(main())
