"""The app: `streamlit run app/main.py -- --root data/runs`. It draws what `interp` computed, and starts without torch."""

import streamlit as st

from app import widgets
from app.views import circuit, codes, compare, explorer, feature, head, heads, home, latents, runs, steering

# The file stem is the address; the first page is the default one and therefore has none.
PAGES = (
    (home, "Home", ":material/home:"), (runs, "Runs", ":material/show_chart:"), (explorer, "Explorer", ":material/search:"),
    (feature, "Feature", ":material/lightbulb:"), (codes, "Codes", ":material/format_list_numbered:"),
    (heads, "Heads", ":material/grid_on:"), (head, "Head", ":material/visibility:"),
    (circuit, "Circuit", ":material/account_tree:"), (compare, "Compare", ":material/compare_arrows:"),
    (latents, "Latents", ":material/hub:"), (steering, "Steering", ":material/explore:"),
)  # fmt: skip


def main() -> None:
    """Draw the chosen page under the menu."""
    st.set_page_config("interp-workbench", page_icon="🔬", layout="wide", initial_sidebar_state="collapsed")
    pages = [
        st.Page(view.page, title=title, icon=icon, url_path=view.__name__.rsplit(".", 1)[-1], default=view is home)
        for view, title, icon in PAGES
    ]
    chosen = st.navigation(pages, position="top")
    widgets.draw_style()
    chosen.run()


main()
