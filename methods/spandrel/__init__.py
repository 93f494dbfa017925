"""Any checkpoint that the spandrel library reads."""
