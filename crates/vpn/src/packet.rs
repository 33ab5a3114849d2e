//! IP packets, as far as the engine has to know them.
