//! The device that packets of this machine come from and go to.
