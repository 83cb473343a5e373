// Shared by the tests of process events: child processes, and a stream of events in which certain ones are expected.
#pragma once

#include "connector_support.hpp"

#include <dmaflow/process_events.hpp>

#include <chrono>
#include <memory>
#include <type_traits>

#include <sys/wait.h>
#include <unistd.h>

namespace dmaflow::connector {

using namespace std::chrono_literals;
using test::must;

inline constexpr const char* page = "docs/connector.md";

inline std::chrono::nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

inline Task self() { return {.pid = ::gettid(), .tgid = ::getpid()}; }

template <typename Function>
pid_t child(Function body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    body();
    ::_exit(0);
  }
  return pid;
}

inline int reap(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return status;
}

template <typename T>
Task task_of(const T& event) {
  if constexpr (std::is_same_v<T, Fork>) {
    return event.child;
  } else {
    return event.task;
  }
}

class ConnectorProcess : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = ProcessEvents::open(options());
    if (!opened && !test::in_lab()) GTEST_SKIP() << opened.error().message();
    events_ = must(std::move(opened));
    begun_ = now();
  }
  virtual ProcessEventsOptions options() const { return {}; }

  /// The next event of this type for this process; other events are skipped.
  template <typename T>
  T expect(pid_t process) {
    while (true) {
      const auto event = events_->wait(Deadline::after(20s));
      if (!event) {
        ADD_FAILURE() << event.error().message();
        return {};
      }
      EXPECT_EQ(event->as<Lost>(), nullptr);
      const T* wanted = event->as<T>();
      if (wanted == nullptr || task_of(*wanted).tgid != process) continue;
      EXPECT_GE(event->time, begun_);
      EXPECT_LE(event->time, now());
      EXPECT_LT(event->cpu, static_cast<unsigned long>(::sysconf(_SC_NPROCESSORS_CONF)));
      return *wanted;
    }
  }

  std::unique_ptr<ProcessEvents> events_;
  std::chrono::nanoseconds begun_{};
};

}  // namespace dmaflow::connector
