//! Loads the programs and writes the maps.
