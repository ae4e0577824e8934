"""The only floor with torch: the memory module, the host that carries it, and how both are initialised, trained and run."""
