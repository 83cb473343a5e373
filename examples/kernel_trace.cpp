#include "kernel_trace.hpp"

#include "trace_text.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include <drm.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace measure {
namespace {

namespace fs = std::filesystem;
const fs::path tracing = "/sys/kernel/tracing";  // Documentation/trace/ftrace.rst

// Removes instances of measurements that were killed.
void remove_leftovers() {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(tracing / "instances", error)) {
    const std::string name = entry.path().filename();
    long process = 0;
    if (!name.starts_with("dmaflow-")) continue;
    std::from_chars(name.data() + 8, name.data() + name.size(), process);
    if (process > 0 && !fs::exists("/proc/" + std::to_string(process))) ::rmdir(entry.path().c_str());
  }
}

}  // namespace

std::expected<std::unique_ptr<KernelTrace>, std::string> KernelTrace::create() {
  if (::geteuid() != 0) return std::unexpected("counting system calls in the kernel (tracefs) needs root");
  if (!fs::exists(tracing / "instances")) {
    if (::mount("tracefs", tracing.c_str(), "tracefs", 0, nullptr) != 0) {
      return std::unexpected(std::string("tracefs cannot be mounted: ") + std::strerror(errno));
    }
  }
  remove_leftovers();
  std::unique_ptr<KernelTrace> trace(new KernelTrace);
  const std::string base = tracing / "instances" / ("dmaflow-" + std::to_string(::getpid()));
  std::error_code error;
  if (!fs::create_directory(base, error)) return std::unexpected("tracefs has no instances: " + error.message());
  trace->calls_ = base;
  if (!fs::exists(trace->calls_ + "/events/raw_syscalls/sys_enter")) {
    return std::unexpected("this kernel has no raw_syscalls tracepoints");
  }
  // Enough for half a second, even of a program that makes very many calls.
  write_file(trace->calls_ + "/buffer_size_kb", "4096");
  write_file(trace->calls_ + "/trace_clock", "mono");
  write_file(trace->calls_ + "/options/event-fork", "1");
  trace->calls_pipe_ = ::open((trace->calls_ + "/trace_pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (trace->calls_pipe_ < 0) return std::unexpected("trace_pipe cannot be opened");
  // Drivers complete frames and flips outside of the process's context, so their events need an instance without its
  // filter.
  if (fs::create_directory(base + "-devices", error)) {
    trace->devices_ = base + "-devices";
    write_file(trace->devices_ + "/trace_clock", "mono");
    write_file(trace->devices_ + "/events/drm/drm_vblank_event_delivered/enable", "1");
    write_file(trace->devices_ + "/events/vb2/vb2_buf_done/enable", "1");
    write_file(trace->devices_ + "/events/vb2/vb2_dqbuf/enable", "1");
    trace->devices_pipe_ = ::open((trace->devices_ + "/trace_pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  }
  return trace;
}

KernelTrace::~KernelTrace() {
  for (const int fd : {calls_pipe_, devices_pipe_}) {
    if (fd >= 0) ::close(fd);
  }
  for (const std::string& instance : {calls_, devices_}) {
    if (!instance.empty()) ::rmdir(instance.c_str());
  }
}

bool KernelTrace::watch(pid_t process) {
  return write_file(calls_ + "/set_event_pid", std::to_string(process)) &&
         write_file(calls_ + "/events/raw_syscalls/sys_enter/enable", "1") &&
         write_file(calls_ + "/events/raw_syscalls/sys_exit/enable", "1");
}

void KernelTrace::collect() {
  // Calls first, because they define when the window opened.
  take(calls_rest_, calls_pipe_, &KernelTrace::syscall_line);
  if (devices_pipe_ >= 0) take(devices_rest_, devices_pipe_, &KernelTrace::device_line);
}

const Counts& KernelTrace::finish() {
  write_file(calls_ + "/events/raw_syscalls/enable", "0");
  collect();
  pair();
  std::error_code error;
  for (const auto& cpu : fs::directory_iterator(calls_ + "/per_cpu", error)) {
    std::ifstream stats(cpu.path() / "stats");
    for (std::string key; stats >> key;) {
      std::uint64_t value = 0;
      if ((key == "overrun:" || key == "events:") && stats >> value && key == "overrun:") counts_.lost += value;
    }
  }
  return counts_;
}

void KernelTrace::take(std::string& rest, int fd, void (KernelTrace::*line)(const char* begin, const char* end)) {
  char buffer[1 << 16];
  for (ssize_t size = 0; (size = ::read(fd, buffer, sizeof buffer)) > 0;) {
    rest.append(buffer, static_cast<std::size_t>(size));
    std::size_t start = 0;
    for (std::size_t end = 0; (end = rest.find('\n', start)) != std::string::npos; start = end + 1) {
      (this->*line)(rest.data() + start, rest.data() + end);
    }
    rest.erase(0, start);
  }
}

// "name-123  [001] .....  45.678901: sys_enter: NR 16 (5, c0585611, 7ffd0, 0, 0, 0)", or "sys_exit: NR 16 = 0".
void KernelTrace::syscall_line(const char* begin, const char* end) {
  constexpr std::string_view enter = ": sys_enter: NR ";
  constexpr std::string_view exit = ": sys_exit: NR ";
  const std::int64_t thread = thread_of(begin, end);
  Call call;
  if (const char* at = find(begin, end, enter)) {
    call.time = time_of(begin, at);
    const char* next = std::from_chars(at + enter.size(), end, call.number).ptr;
    next += 2;  // " ("
    for (std::uint64_t& argument : call.arguments) {
      if (next >= end) break;
      next = std::from_chars(next, end, argument, 16).ptr + 2;  // ", "
    }
    entered(call);
    pending_[thread] = call;
  } else if (const char* out = find(begin, end, exit)) {
    std::int64_t number = -1;
    std::int64_t result = -1;
    const char* next = std::from_chars(out + exit.size(), end, number).ptr + 3;  // " = "
    if (next < end) std::from_chars(next, end, result);
    const auto entry = pending_.find(thread);
    if (entry == pending_.end() || entry->second.number != number) return;
    left(entry->second, result, time_of(begin, out));
    pending_.erase(entry);
  }
}

void KernelTrace::entered(const Call& call) {
  const bool is_ioctl = call.number == SYS_ioctl;
  const auto request = request_of(call.arguments[1]);
  if (is_ioctl && request == VIDIOC_STREAMON && !counts_.opened) switched_on_at_ = call.time;
  if (is_ioctl && request == VIDIOC_STREAMOFF && counts_.opened) counts_.closed = true;
  if (counts_.closed) return;
  const std::string name = call_name(call.number, request);
  if (!counts_.opened) {
    ++counts_.before[name];
    return;
  }
  ++counts_.calls;
  ++counts_.by_name[name];
  switch (call.number) {
    case SYS_splice:
    case SYS_copy_file_range:
      ++counts_.data_calls_by_fd[static_cast<std::int64_t>(call.arguments[2])];
      [[fallthrough]];
    case SYS_read:
    case SYS_write:
    case SYS_pread64:
    case SYS_pwrite64:
    case SYS_readv:
    case SYS_writev:
    case SYS_tee:
    case SYS_vmsplice:
      ++counts_.data_calls_by_fd[static_cast<std::int64_t>(call.arguments[0])];
      break;
    case SYS_sendfile:
      ++counts_.data_calls_by_fd[static_cast<std::int64_t>(call.arguments[0])];
      ++counts_.data_calls_by_fd[static_cast<std::int64_t>(call.arguments[1])];
      break;
    default:
      break;
  }
}

void KernelTrace::left(const Call& call, std::int64_t result, double time) {
  if (call.number != SYS_ioctl || result != 0) return;
  const auto request = request_of(call.arguments[1]);
  if (request == VIDIOC_STREAMON && !counts_.opened) {
    counts_.opened = true;
    opened_at_ = time;
  }
  if (!counts_.opened) return;
  if (request == VIDIOC_DQBUF && !counts_.closed) {
    ++counts_.frames;
    dequeued_.push_back(time);
  }
  if (request == DRM_IOCTL_MODE_ATOMIC) commits_.push_back(call.time);
}

// "...: drm_vblank_event_delivered: file=..., crtc=0, seq=7" and
// "...: vb2_buf_done: owner = ..., index = 1, type = 1, bytesused = 3686400, timestamp = 7654321".
void KernelTrace::device_line(const char* begin, const char* end) {
  if (const char* flip = find(begin, end, ": drm_vblank_event_delivered:")) {
    flips_.push_back(time_of(begin, flip));
    return;
  }
  const char* done = find(begin, end, ": vb2_buf_done:");
  const char* given = find(begin, end, ": vb2_dqbuf:");
  const char* event = done != nullptr ? done : given;
  if (event == nullptr) return;
  const auto number_after = [&](std::string_view key) {
    std::uint64_t number = 0;
    if (const char* at = find(event, end, key)) std::from_chars(at + key.size(), end, number);
    return number;
  };
  const auto type = number_after(" type = ");
  if (type != V4L2_BUF_TYPE_VIDEO_CAPTURE && type != V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE) return;
  (done != nullptr ? done_ : given_)
      .push_back(
          {.time = time_of(begin, event), .timestamp = static_cast<double>(number_after(" timestamp = ")) / 1e9});
}

void KernelTrace::pair() {
  for (auto* list : {&done_, &given_}) {
    std::erase_if(*list, [&](const Handed& frame) { return frame.time < switched_on_at_; });
  }
  for (const double flip : flips_) {
    if (!counts_.opened || flip < opened_at_) continue;
    counts_.flips.push_back(flip - opened_at_);
    // Both lists are sorted.
    const auto commit = std::ranges::lower_bound(commits_, flip);
    if (commit == commits_.begin()) continue;
    counts_.to_flip.push_back(flip - *std::prev(commit));
    const auto frames = std::ranges::lower_bound(dequeued_, *std::prev(commit)) - dequeued_.begin();
    // Buffers leave the queue in the order in which they were completed.
    if (frames == 0 || static_cast<std::size_t>(frames) > std::min(done_.size(), given_.size())) continue;
    const auto shown = static_cast<std::size_t>(frames) - 1;
    counts_.latencies.push_back(flip - given_[shown].timestamp);
    counts_.to_commit.push_back(*std::prev(commit) - given_[shown].timestamp);
    counts_.handovers.push_back(flip - done_[shown].time);
  }
}

}  // namespace measure
