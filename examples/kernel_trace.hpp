// What a process asks of the kernel, counted by the kernel: the tracepoints raw_syscalls:sys_enter and sys_exit in a
// tracefs instance of their own, so nobody else's tracing is disturbed. Needs root.
//
// Counted is the window in which a camera streams: from the first VIDIOC_STREAMON that succeeded to the first
// VIDIOC_STREAMOFF, all threads. Beside it, every page flip event the display drivers deliver
// (drm:drm_vblank_event_delivered) and every frame the camera drivers finish (vb2:vb2_buf_done, vb2_dqbuf). From these
// follows the latency of each frame, without a word of the program's: a flip shows what the last commit before it
// brought, and a commit brings the newest frame dequeued.
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
  std::uint64_t frames = 0;                                ///< VIDIOC_DQBUF that gave a frame
  std::uint64_t calls = 0;                                 ///< system calls, all threads
  std::map<std::string, std::uint64_t> by_name;            ///< "poll", "ioctl VIDIOC_DQBUF", ...
  std::map<std::string, std::uint64_t> before;             ///< the same, before the window
  std::map<std::int64_t, std::uint64_t> data_calls_by_fd;  ///< read, write, splice and their like, by descriptor
  std::vector<double> flips;                               ///< seconds since the window's start
  std::vector<double> latencies;  ///< seconds from a frame's time stamp to its flip; may be unknown: empty
  std::vector<double> handovers;  ///< seconds from the camera driver's vb2_buf_done to the flip
  std::vector<double> to_commit;  ///< of the latencies, the part up to the commit
  std::vector<double> to_flip;    ///< seconds from a commit to its flip
  std::uint64_t lost = 0;         ///< events the kernel had no room for: the counts are then too low
};

class KernelTrace {
 public:
  /// Prepares tracing. The reason in words where that is not possible.
  static std::expected<std::unique_ptr<KernelTrace>, std::string> create();
  KernelTrace(const KernelTrace&) = delete;
  KernelTrace& operator=(const KernelTrace&) = delete;
  ~KernelTrace();

  /// Begins, for this process and all it starts. False where the kernel refuses.
  bool watch(pid_t process);
  /// Takes what has been traced since the last time. Call it a few times a second.
  void collect();
  /// Stops tracing and takes the rest.
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
  /// A frame on its way: when it was handed over, and its time stamp, which only the second of these two events knows.
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
  std::string calls_rest_;  // half a line
  std::string devices_rest_;
  std::map<std::int64_t, Call> pending_;  // by thread
  double opened_at_ = 0;
  double switched_on_at_ = 0;  // when VIDIOC_STREAMON was called: the first frame may be done before it returns
  std::vector<Handed> done_;   // vb2_buf_done: the driver to the queue
  std::vector<Handed> given_;  // vb2_dqbuf: the queue to the program
  std::vector<double> dequeued_;
  std::vector<double> commits_;
  std::vector<double> flips_;
  Counts counts_;
};

}  // namespace measure
