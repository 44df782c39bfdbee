"""Jobs over many texts: written in parts, each once, here or on a cluster; a killed job goes on."""
