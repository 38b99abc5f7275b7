"""`python -m perceptual_ops` is the command `perceptual-ops`."""

from .cli import main

raise SystemExit(main())
