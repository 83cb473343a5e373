// Shared by the tests of timelines: a device that has them, and a thread that waits.
#pragma once

#include "allocator_checks.hpp"
#include "fence_support.hpp"

#include "uapi/drm_syncobj.hpp"

#include <dmaflow/timeline.hpp>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace dmaflow::test {

using namespace std::chrono_literals;

inline Deadline soon() { return Deadline::after(20s); }
inline Deadline shortly() { return Deadline::after(30ms); }
inline constexpr const char* page = "docs/timelines.md";

/// Every node in /dev/dri, render nodes first.
inline std::vector<std::string> nodes() {
  std::vector<std::string> result;
  for (const char* kind : {"renderD", "card"}) {
    for (int i = 0; i < 192; ++i) {
      const std::string path = std::string("/dev/dri/") + kind + std::to_string(i);
      if (std::filesystem::exists(path)) result.push_back(path);
    }
  }
  return result;
}

/// The first node with timelines; empty if there is none.
inline std::string node_with_timelines() {
  for (const std::string& path : nodes()) {
    const auto device = SyncobjDevice::open(path);
    if (device && device->has_timelines()) return path;
  }
  return {};
}

class Timelines : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(!nodes().empty() || !test::in_lab()) << "the lab has DRM devices: --display virtio";
    path_ = node_with_timelines();
    if (path_.empty()) GTEST_SKIP() << "no DRM device with timelines here";
    device_.emplace(must(SyncobjDevice::open(path_)));
  }
  Timeline timeline() { return must(Timeline::create(*device_), "create"); }
  bool readable(const Fd& event) { return sys::wait(event.get(), POLLIN, Deadline::immediate()) > 0; }
  bool readable_soon(const Fd& event) { return sys::wait(event.get(), POLLIN, soon()) > 0; }

  std::string path_;
  std::optional<SyncobjDevice> device_;
};

/// Runs a call in a thread and keeps its errno (0: success), which is read once the call has returned.
class Waiter {
 public:
  explicit Waiter(std::function<Result<void>()> call)
      : thread_([this, call = std::move(call)] {
          id_ = ::gettid();
          const auto result = call();
          code_ = result ? 0 : result.error().code();
          over_ = true;
        }) {}
  ~Waiter() {
    if (thread_.joinable()) thread_.join();
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  /// Returns once the thread sleeps in a wait for points: not in a wait for a lock, and not before the wait began.
  Waiter& asleep() {
    while (id_ == 0) std::this_thread::yield();
    const std::string path = "/proc/self/task/" + std::to_string(id_) + "/syscall";
    while (!over_) {
      std::ifstream file(path);  // "16 0x3 0xc03064ca ...", "running"
      long number = -1;
      unsigned long descriptor = 0;
      unsigned long request = 0;
      file >> number >> std::hex >> descriptor >> request;
#ifdef SYS_poll
      if (number == SYS_poll) break;
#endif
      if (number == SYS_ppoll ||
          (number == SYS_ioctl && _IOC_NR(request) == _IOC_NR(DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT))) {
        break;
      }
      std::this_thread::sleep_for(1ms);
    }
    return *this;
  }
  bool is_over() const { return over_; }
  pthread_t handle() { return thread_.native_handle(); }
  int code() {
    thread_.join();
    return code_;
  }

 private:
  std::atomic<pid_t> id_ = 0;
  std::atomic<bool> over_ = false;
  int code_ = -1;
  std::thread thread_;
};

}  // namespace dmaflow::test
