"""The dashboard: `main.py` is its entry, `app_pages/` hold the pages, `figures/` and `components/` draw."""
