"""Programs the tests run in processes of their own."""
