"""One command that decides: which categories help, which model to ship, and how much better and how sure that is."""
