// Traces programs that show cameras, for a while in the middle of their streams: each frame's latency, and system calls
// by name. Needs root.
#pragma once

#include <dmaflow/fd.hpp>

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

namespace outside {

struct TracedProgram {
  std::uint64_t frames = 0;                      ///< frames that it dequeued from a camera
  std::map<std::string, std::uint64_t> by_name;  ///< its system calls
  /// The times, in seconds, of its successful calls that show a frame: atomic commits, or the legacy calls (page flip,
  /// set plane).
  std::vector<double> commits;
  /// Seconds from a frame's time stamp to the display's event after its commit. Empty if several displays show frames,
  /// because their events cannot be told apart.
  std::vector<double> latencies;
};

struct Traced {
  std::vector<TracedProgram> programs;  ///< in the given order
  std::vector<double> flips;            ///< times of the flips of all displays
  std::uint64_t lost = 0;               ///< events that did not fit into the kernel's buffer
};

class Trace {
 public:
  /// Starts tracing. The error is the reason as text.
  static std::expected<std::unique_ptr<Trace>, std::string> start(std::span<const pid_t> processes);
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  ~Trace();
  /// Reads the pending events. Must be called a few times a second, or the kernel's buffer overflows.
  void collect();
  /// Stops tracing and reads the rest.
  const Traced& finish();

 private:
  Trace() = default;
  struct Call {
    std::int64_t number = -1;
    std::uint64_t request = 0;
    double time = 0;
  };
  struct Given {
    double time = 0;       // when the program dequeued the frame
    double timestamp = 0;  // when the frame was exposed
  };
  void line(const char* begin, const char* end);
  void entered(std::int64_t thread, std::size_t program, double time, const char* begin, const char* end);
  void left(std::int64_t thread, std::size_t program, const char* begin, const char* end);
  void pair();

  std::string instance_;  // a directory of tracefs
  dmaflow::Fd pipe_;
  std::string rest_;                             // an incomplete line
  std::map<std::int64_t, std::size_t> threads_;  // the index of each thread's program
  std::map<std::int64_t, Call> pending_;
  std::vector<std::vector<Given>> given_;
  std::vector<std::map<std::uint64_t, std::vector<double>>> commits_;  // by request
  Traced traced_;
};

}  // namespace outside
