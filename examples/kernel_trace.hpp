// A process's system calls, counted by the kernel: the tracepoints raw_syscalls:sys_enter and sys_exit in a separate
// tracefs instance, which does not disturb other tracing. Needs root.
//
// The calls of all threads are counted in the window in which a camera streams: from the first VIDIOC_STREAMON that
// succeeded to the first VIDIOC_STREAMOFF. In addition, every page flip event that display drivers deliver
// (drm:drm_vblank_event_delivered) and every frame that camera drivers complete (vb2:vb2_buf_done, vb2_dqbuf) is
// recorded. The latency of each frame follows from these events, without the program's help: a flip shows the frame of
// the last commit before it, and a commit contains the newest dequeued frame.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

namespace measure {

/// What was counted in the window.
struct Counts {
  bool opened = false;                                     ///< the stream was switched on
  bool closed = false;                                     ///< ... and off
  std::uint64_t frames = 0;                                ///< VIDIOC_DQBUF calls that returned a frame
  std::uint64_t calls = 0;                                 ///< system calls, all threads
  std::map<std::string, std::uint64_t> by_name;            ///< "poll", "ioctl VIDIOC_DQBUF", ...
  std::map<std::string, std::uint64_t> before;             ///< the same, before the window
  std::map<std::int64_t, std::uint64_t> data_calls_by_fd;  ///< read, write, splice and similar calls, by descriptor
  std::vector<double> flips;                               ///< seconds since the window's start
  std::vector<double> latencies;  ///< seconds from a frame's time stamp to its flip; empty if unknown
  std::vector<double> handovers;  ///< seconds from the camera driver's vb2_buf_done to the flip
  std::vector<double> to_commit;  ///< of the latencies, the part up to the commit
  std::vector<double> to_flip;    ///< seconds from a commit to its flip
  std::uint64_t lost = 0;         ///< events that did not fit into the kernel's buffer; if any, the counts are too low
};

class KernelTrace {
 public:
  /// Prepares tracing. The error is the reason as text.
  static std::expected<std::unique_ptr<KernelTrace>, std::string> create();
  KernelTrace(const KernelTrace&) = delete;
  KernelTrace& operator=(const KernelTrace&) = delete;
  ~KernelTrace();

  /// Starts tracing this process and all processes that it starts. False if the kernel refuses.
  bool watch(pid_t process);
  /// Reads what was traced since the last call. Must be called a few times a second.
  void collect();
  /// Stops tracing and reads the rest.
  const Counts& finish();
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] std::size_t flips_so_far() const { return flips_.size(); }

 private:
  KernelTrace() = default;
  struct Call {
    std::int64_t number = -1;
    std::uint64_t arguments[3] = {};
    double time = 0;
  };
  /// A frame's event: when the frame was handed over, and its time stamp, which is known only at vb2_dqbuf.
  struct Handed {
    double time = 0;
    double timestamp = 0;
  };
  void take(std::string& rest, int fd, void (KernelTrace::*line)(const char* begin, const char* end));
  void syscall_line(const char* begin, const char* end);
  void device_line(const char* begin, const char* end);
  void entered(const Call& call);
  void left(const Call& call, std::int64_t result, double time);
  void pair();

  std::string calls_;  // directories of the two instances
  std::string devices_;
  int calls_pipe_ = -1;
  int devices_pipe_ = -1;
  std::string calls_rest_;  // an incomplete line
  std::string devices_rest_;
  std::map<std::int64_t, Call> pending_;  // by thread
  double opened_at_ = 0;
  double switched_on_at_ = 0;  // when VIDIOC_STREAMON was called; the first frame may be complete before it returns
  std::vector<Handed> done_;   // vb2_buf_done: from the driver to the queue
  std::vector<Handed> given_;  // vb2_dqbuf: from the queue to the program
  std::vector<double> dequeued_;
  std::vector<double> commits_;
  std::vector<double> flips_;
  Counts counts_;
};

}  // namespace measure
