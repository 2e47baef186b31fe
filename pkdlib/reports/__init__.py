"""What a person is handed: the page of a folder's runs, the tutorial's page, GLUE's archive."""
