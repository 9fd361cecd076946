"""The formats of trees: files, directories and versions as blocks of a store."""
