"""Questions put to artifacts; the answers are Arrow tables that screen, JSON and pictures are all made from."""
