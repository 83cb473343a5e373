// Watches the processes that hold a program's buffers: a set of processes, watched for forks, execs and exits.
//
// A forked child has its parent's descriptors, so it holds the same dma-bufs; execve() closes those that are CLOEXEC,
// as all of dmaflow's are; and when a process ends, its holds end. So the children of a holder are holders too, and are
// added.
//
// There are two modes. With process events all of this is seen. If they are not permitted (see process_events.hpp), a
// pidfd for each added process still reports when it ends, but forks, execs and children are not reported. mode()
// returns the mode, and why_no_events() the reason.
//
// Never seen: a child made with CLONE_PARENT (the kernel reports its grandparent), descriptors sent over a socket, and,
// after a loss, children whose parent has ended since.
//
// Threads: one at a time.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/process.hpp>
#include <dmaflow/process_events.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include <sys/types.h>

namespace dmaflow::connector {

struct HolderEvent {
  enum class Kind : std::uint8_t {
    forked,  ///< a holder made a child, which is a holder from now on
    execed,  ///< a holder replaced its program
    gone,    ///< a holder has ended, and is none any more
    lost,    ///< process events were lost. What could be recovered follows; execs could not
  };
  Kind kind = Kind::gone;
  pid_t pid = 0;           ///< the holder; 0 for lost
  pid_t child = 0;         ///< of forked
  std::uint64_t lost = 0;  ///< of lost: how many events
};

class HolderWatch final : public Pollable {
 public:
  enum class Mode : std::uint8_t { pidfds_only, pidfds_and_events };

  /// Uses process events if they are permitted. Errors: EMFILE, ENOMEM and others of epoll_create; those of reading
  /// /proc.
  [[nodiscard]] static Result<std::unique_ptr<HolderWatch>> create(const ProcessEventsOptions& options = {});
  /// Without process events.
  [[nodiscard]] static Result<std::unique_ptr<HolderWatch>> create_without_events();
  ~HolderWatch() override;

  [[nodiscard]] Mode mode() const noexcept;
  /// Why there are no process events; empty if there are, or if they were not requested.
  [[nodiscard]] const std::optional<Error>& why_no_events() const noexcept;

  /// Adds a holder; does nothing if it is in the set already. Its existing children are not added. Errors: those of
  /// Process::open(), so ESRCH if it is gone already.
  [[nodiscard]] Result<void> add(ProcessId id);
  [[nodiscard]] Result<void> add(pid_t pid) { return add(ProcessId{.pid = pid, .start = 0}); }
  /// Removes a process from the set, whether it was added or is a child; false if it is not in the set. Its children
  /// stay.
  bool remove(pid_t pid) noexcept;
  [[nodiscard]] bool contains(pid_t pid) const noexcept;
  [[nodiscard]] std::size_t size() const noexcept;

  /// The next event; empty if there is none now. Never blocks, except after a loss of events, when it reads /proc.
  /// Allocates only if there are more holders, or more events at once, than ever before, and after a loss.
  /// Errors: those of process events and of reading /proc.
  [[nodiscard]] Result<std::optional<HolderEvent>> take();

  /// An epoll descriptor. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Reads what arrived; take() returns it. Errors: those of take().
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  struct Impl;
  explicit HolderWatch(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::connector
