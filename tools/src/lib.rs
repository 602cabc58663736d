//! Tools that look into a store on disk.
