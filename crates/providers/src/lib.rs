//! Where the flag comes from: the poll loop and the stores it reads.
