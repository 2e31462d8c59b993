"""Policy made into chains and sets: pure, results of `felix.calc` in, wanted rules out. Nothing is built here yet; the
design's section 6 says what this package must keep."""
