//! Handles SIGBUS, which the kernel sends when a mapped file of the cache directory was truncated or its disk
//! fails. Without the handler, the signal would end the process, and a mount would stop to work without a word.

/// The error of a command that has read from such a file: its output can be wrong.
pub(super) const LOST: &str = "a file in the cache directory was truncated, or could not be read, while it was used; \
    the output may be incomplete; run the command again";

/// Installs the handler.
#[expect(unsafe_code, reason = "there is no other way to handle this signal with its address")]
pub(super) fn handle() {
    // SAFETY: a `sigaction` of zeros is valid; the handler has the signature that SA_SIGINFO asks for.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
    };
    if installed != 0 {
        log::debug!("cannot handle SIGBUS: {}", std::io::Error::last_os_error());
    }
}

/// Replaces the lost pages. Any other bus error ends the process, as without a handler: the instruction is
/// repeated with the default action in force.
#[expect(unsafe_code, reason = "the signature of a signal handler")]
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, whose address is set for this signal.
    let address = unsafe { (*info).si_addr() };
    if !imgmount::recover_mapping(address.addr()) {
        // SAFETY: `signal` may be called in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}
