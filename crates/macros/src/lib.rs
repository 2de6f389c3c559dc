//! The unit_of_work attribute for tidegate.
