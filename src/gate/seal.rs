//! Protected fields become ciphertext, tokens or years; only what this stage returns can be produced.
