// Cancel: a switch by which one thread ends the waits of others.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <utility>

namespace dmaflow {

/// Waits that use this switch end with ECANCELED once it is set, and so do those that begin while it is set: it stays
/// set until reset(). Anything ready already is still reported as ready. Every blocking wait of the library takes a
/// Cancel in addition to its Deadline. Move-only (do not move it while others use it); must outlive the waits. cancel()
/// may be called from any thread and from a signal handler; all other calls are thread-safe too. Implemented with an
/// eventfd.
class Cancel {
 public:
  /// Errors: EMFILE, ENFILE, ENOMEM, those of eventfd.
  [[nodiscard]] static Result<Cancel> create() noexcept;

  /// Sets it. One system call; wakes every wait that has it.
  void cancel() const noexcept;
  /// Clears it for new waits. Call it when the old waits have ended: a wait that has not checked yet may miss that it
  /// was set.
  void reset() const noexcept;
  /// Checks, with one system call.
  [[nodiscard]] bool is_set() const noexcept;
  /// Readable (POLLIN) while set, for your own poll loop. Do not read from it. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept { return event_.get(); }

 private:
  explicit Cancel(Fd event) noexcept : event_(std::move(event)) {}
  Fd event_;
};

}  // namespace dmaflow
