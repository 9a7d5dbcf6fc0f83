"""Folders of lightning models, as MiniMax released them and as transformers reads them."""
