"""The page at `/`: HTML, styles and JavaScript modules as browsers read them."""
