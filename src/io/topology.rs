//! Topics, databases and roles as declared in `topology/`, applied and checked.
