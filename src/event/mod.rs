//! From schema to plan, and the walkers that run a plan over received bytes.
