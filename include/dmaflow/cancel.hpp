// Cancel: a switch with which one thread ends the waits of others.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <utility>

namespace dmaflow {

/// Waits that were given this switch end with ECANCELED once it is set, and so do those that begin while it is set: it
/// stays set until reset(). What is ready already is still reported as ready. Every blocking wait of the library takes
/// one, beside its Deadline. Move-only (do not move it while others use it); must outlive the waits. cancel() may be
/// called from any thread and from a signal handler; all other calls are thread-safe too. An eventfd underneath.
class Cancel {
 public:
  /// Errors: EMFILE, ENFILE, ENOMEM, those of eventfd.
  [[nodiscard]] static Result<Cancel> create() noexcept;

  /// Sets it. One system call; wakes every wait that has it.
  void cancel() const noexcept;
  /// Makes it fit for new waits. Call it when the old ones have ended: one that has not looked yet may miss its end.
  void reset() const noexcept;
  /// Looks, with one system call.
  [[nodiscard]] bool is_set() const noexcept;
  /// Readable (POLLIN) while set, for a poll loop of your own. Do not read from it. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept { return event_.get(); }

 private:
  explicit Cancel(Fd event) noexcept : event_(std::move(event)) {}
  Fd event_;
};

}  // namespace dmaflow
