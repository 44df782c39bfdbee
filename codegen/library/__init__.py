"""The library builder: import, flatten, compile and link lowered units."""
