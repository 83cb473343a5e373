// The kernel's trace of programs that show cameras, for a while in the middle of their streams: each frame's latency,
// and system calls by name. Needs root.
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
  std::uint64_t frames = 0;                      ///< that a camera's queue gave it
  std::map<std::string, std::uint64_t> by_name;  ///< its system calls
  /// When it asked for a frame on the screen, seconds: calls that the kernel granted. An atomic commit, or what was
  /// there before (page flip, plane).
  std::vector<double> commits;
  /// Seconds from a frame's time stamp to the display's event after its commit. Empty where several displays show,
  /// whose events look alike.
  std::vector<double> latencies;
};

struct Traced {
  std::vector<TracedProgram> programs;  ///< as they were given
  std::vector<double> flips;            ///< when, of all displays
  std::uint64_t lost = 0;               ///< events the kernel had no room for
};

class Trace {
 public:
  /// Begins. The reason in words where that is not possible.
  static std::expected<std::unique_ptr<Trace>, std::string> start(std::span<const pid_t> processes);
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  ~Trace();
  /// Takes what there is. A few times a second, or the kernel's room runs out.
  void collect();
  /// Stops tracing and takes the rest.
  const Traced& finish();

 private:
  Trace() = default;
  struct Call {
    std::int64_t number = -1;
    std::uint64_t request = 0;
    double time = 0;
  };
  struct Given {
    double time = 0;       // when the program got it
    double timestamp = 0;  // when it was exposed
  };
  void line(const char* begin, const char* end);
  void entered(std::int64_t thread, std::size_t program, double time, const char* begin, const char* end);
  void left(std::int64_t thread, std::size_t program, const char* begin, const char* end);
  void pair();

  std::string instance_;  // a directory of tracefs
  dmaflow::Fd pipe_;
  std::string rest_;                             // half a line
  std::map<std::int64_t, std::size_t> threads_;  // the program of each
  std::map<std::int64_t, Call> pending_;
  std::vector<std::vector<Given>> given_;
  std::vector<std::map<std::uint64_t, std::vector<double>>> commits_;  // by request
  Traced traced_;
};

}  // namespace outside
