// Process events: the kernel reports every fork, exec, change of identity, core dump and exit on the machine
// (include/uapi/linux/cn_proc.h).
// What it does not report, and how this class handles it:
// - Events can be lost if they arrive faster than they are read. Then a Lost item takes their place, with their exact
// number; ProcessTable (process_table.hpp) recovers from /proc.
// - Exit is the end of a thread. Even if its pid is its tgid, the process may continue without its first thread: see
// process.hpp and ProcessTable.
// - By the time an event is read, its pid may belong to another process.
// - Pids are those of the first pid namespace.
//
// Kernel 6.6 and later give events to every process, filtered for each socket; earlier kernels require CAP_NET_ADMIN
// and do not filter, so a BPF program does. Which of the two applies is found by asking the kernel. From another
// network, pid or user namespace the kernel ignores us; the error says which.
//
// Threads: one at a time for each object.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/connector_message.hpp>
#include <dmaflow/connector_socket.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include <sys/types.h>

namespace dmaflow::connector {

/// A thread and its process, in the kernel's terms: `pid` is the thread, `tgid` the process. They are equal for the
/// first thread.
struct Task {
  pid_t pid = 0;
  pid_t tgid = 0;
  friend constexpr bool operator==(const Task&, const Task&) = default;
};

/// A new process, or where child.pid is not child.tgid a new thread. @p parent is the *real parent* of the child: for a
/// thread, and for a child made with CLONE_PARENT, the parent of the caller of clone().
struct Fork {
  Task parent{}, child{};
  [[nodiscard]] bool is_process() const noexcept { return child.pid == child.tgid; }
};
/// task.pid is task.tgid by then, whichever thread called execve().
struct Exec {
  Task task{};
};
/// Real and effective, after the change; in the first user namespace.
struct UidChange {
  Task task{};
  uid_t real = 0, effective = 0;
};
struct GidChange {
  Task task{};
  gid_t real = 0, effective = 0;
};
struct SessionStart {  ///< setsid()
  Task task{};
};
struct Ptrace {  ///< @p tracer is all 0 if the tracer detached
  Task task{}, tracer{};
};
struct NameChange {  ///< prctl(PR_SET_NAME) or /proc/PID/comm; not by execve()
  Task task{};
  std::array<char, 16> comm{};
  [[nodiscard]] std::string_view name() const noexcept;
};
struct CoreDump {
  Task task{}, parent{};
};
/// The end of a thread.
struct Exit {
  Task task{}, parent{};
  std::uint32_t status = 0;        ///< as waitpid() gives it
  std::int32_t parent_signal = 0;  ///< what the parent is sent: SIGCHLD for most processes, -1 for threads
  [[nodiscard]] bool is_first_thread() const noexcept { return task.pid == task.tgid; }
  /// The exit code 0 to 255, if it was not killed.
  [[nodiscard]] std::optional<int> code() const noexcept;
  /// The signal that killed it, or 0.
  [[nodiscard]] int signal() const noexcept { return static_cast<int>(status & 0x7fU); }
  [[nodiscard]] bool dumped_core() const noexcept { return (status & 0x80U) != 0; }
};
/// @p count events are missing at this place in the stream. The total is always exact; if losses follow each other
/// closely, some of the second may be counted with the first.
struct Lost {
  std::uint64_t count = 0;
};
/// An event that this library does not know, from a later kernel.
struct UnknownEvent {
  std::uint32_t what = 0;
};

/// One item of the stream. A value.
struct ProcessEvent {
  std::uint32_t cpu = 0;            ///< where it happened
  std::chrono::nanoseconds time{};  ///< CLOCK_MONOTONIC; 0 for Lost. Events of two processors may come out of order
  std::variant<UnknownEvent, Fork, Exec, UidChange, GidChange, SessionStart, Ptrace, NameChange, CoreDump, Exit, Lost>
      what{};

  template <typename T>
  [[nodiscard]] const T* as() const noexcept {
    return std::get_if<T>(&what);
  }
};

/// Reads the payload of a message of ids::process. Empty if it is too short; the control's answer (event NONE) is an
/// UnknownEvent with what 0.
template <>
struct PayloadTraits<ProcessEvent> {
  static constexpr CbId id = ids::process;
  static std::optional<ProcessEvent> parse(std::span<const std::byte> payload) noexcept;
};

/// Which events: PROC_EVENT_* of linux/cn_proc.h, combined with |.
enum class ProcessEventMask : std::uint32_t {
  fork = 0x1,
  exec = 0x2,
  uid = 0x4,
  gid = 0x40,
  session = 0x80,
  ptrace = 0x100,
  name = 0x200,
  core_dump = 0x40000000,
  exit = 0x80000000,
  all = fork | exec | uid | gid | session | ptrace | name | core_dump | exit,
};
constexpr ProcessEventMask operator|(ProcessEventMask a, ProcessEventMask b) noexcept {
  return static_cast<ProcessEventMask>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}

struct ProcessEventsOptions {
  ProcessEventMask events = ProcessEventMask::all;
  /// Who keeps back what was not asked for.
  enum class Filter : std::uint8_t {
    automatic,  ///< the kernel's filter if there is one, else BPF
    bpf,        ///< for kernels 6.6.13 to 6.6.17, some of which fall silent for all once they filter
  };
  Filter filter = Filter::automatic;
  std::uint32_t receive_buffer = 8U << 20U;  ///< bytes; an event takes 832. 0 leaves it as it is (256 events)
  std::size_t batch = 256;                   ///< events read with one system call, 1 to 1024
};

/// The stream. Cannot be copied or moved. Reading allocates nothing.
class ProcessEvents final : public Pollable {
 public:
  enum class Filter : std::uint8_t { none, kernel, bpf };

  /// Starts listening, and returns when the kernel has confirmed it. Waits for that at most until @p deadline; if the
  /// kernel answers at all, it does so at once.
  /// Errors: EPERM (no privilege), ECONNREFUSED (network namespace), EXDEV (pid or user namespace), EPROTONOSUPPORT
  /// and ENOPROTOOPT (a kernel without CONFIG_CONNECTOR, without CONFIG_PROC_EVENTS), ETIMEDOUT, EINVAL (an option);
  /// the detail says what would help.
  [[nodiscard]] static Result<std::unique_ptr<ProcessEvents>> open(
      const ProcessEventsOptions& options = {}, Deadline deadline = Deadline::after(std::chrono::seconds(2)));
  /// The same with a socket opened elsewhere (joined to group 1 if that needs privilege). @p is_listening: the other
  /// side has also sent LISTEN, and will send IGNORE; then nothing is sent or confirmed, because before kernel 6.6 the
  /// sender must have the privilege. On an error the caller keeps the socket. Errors: those of Socket::adopt(), and as
  /// open().
  [[nodiscard]] static Result<std::unique_ptr<ProcessEvents>> adopt(
      Fd& fd, bool is_listening, const ProcessEventsOptions& options = {},
      Deadline deadline = Deadline::after(std::chrono::seconds(2)));
  /// Sends IGNORE, so that the kernel stops sending events to this socket only.
  ~ProcessEvents() override;

  /// The next item; empty if there is none now. Never blocks. At most one system call for each `batch` events, and a
  /// few more at a loss. Call it until it returns empty.
  /// Errors: those of the socket.
  [[nodiscard]] Result<std::optional<ProcessEvent>> take();
  /// Waits for the next item. A loop that does nothing else makes two system calls for all events since the last: one
  /// that sleeps, and one that reads. Errors: ETIMEDOUT, ECANCELED, those of take().
  [[nodiscard]] Result<ProcessEvent> wait(Deadline deadline, const Cancel* cancel = nullptr);

  /// Who keeps back what was not asked for.
  [[nodiscard]] Filter filter() const noexcept;
  [[nodiscard]] ReceiveBuffer receive_buffer() const noexcept;

  struct Counters {
    std::uint64_t events = 0;         ///< taken
    std::uint64_t lost = 0;           ///< by the kernel's count, as reported in Lost items
    std::uint64_t foreign = 0;        ///< datagrams from other programs, rejected
    std::uint64_t malformed = 0;      ///< datagrams that are no event
    std::uint64_t receive_calls = 0;  ///< system calls that read
  };
  [[nodiscard]] Counters counters() const noexcept;
  /// The kernel's own count of the events that this socket lost, modulo 2^32, whether reported yet or not. One system
  /// call.
  [[nodiscard]] Result<std::uint32_t> drops() const;

  /// Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Reads one batch if the last is used up; take() then returns the events read, and if those were all, returns empty
  /// after them without another system call. Errors: those of take().
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  struct Impl;
  explicit ProcessEvents(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::connector
