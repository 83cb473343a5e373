#include "log.hpp"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace dmaflow {
namespace {

struct Heard {
  std::vector<std::pair<LogLevel, std::string>> lines;
};

void listen(LogLevel level, std::string_view message, void* user) {
  static_cast<Heard*>(user)->lines.emplace_back(level, message);
}

/// Removes the hook at the end of the test, however it ends.
struct Listening {
  explicit Listening(LogHook hook, void* user) { set_log_hook(hook, user); }
  ~Listening() { set_log_hook(nullptr); }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;
};

TEST(Log, IsSilentUnlessAsked) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  detail::log(LogLevel::warning, "nobody hears %d", 1);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Log, TheHookHearsFormattedMessages) {
  Heard heard;
  {
    const Listening listening(listen, &heard);
    detail::log(LogLevel::info, "camera %s lost %d frames", "vivid", 3);
  }
  detail::log(LogLevel::info, "after the hook was taken away");
  ASSERT_EQ(heard.lines.size(), 1U);
  EXPECT_EQ(heard.lines[0], std::pair(LogLevel::info, std::string("camera vivid lost 3 frames")));
}

TEST(Log, LongMessagesAreCutNotOverrun) {
  Heard heard;
  const Listening listening(listen, &heard);
  detail::log(LogLevel::debug, "%s", std::string(100'000, 'x').c_str());
  ASSERT_EQ(heard.lines.size(), 1U);
  EXPECT_EQ(heard.lines[0].second.find_first_not_of('x'), std::string::npos);
}

TEST(Log, HookAndItsArgumentNeverMix) {
  // Two hooks, each with its own argument, are exchanged while another thread logs.
  static int first = 1;
  static int second = 2;
  static std::atomic<int> mixed{0};
  static std::atomic<int> calls{0};
  const auto expect_first = [](LogLevel, std::string_view, void* user) {
    ++calls;
    mixed += user != &first;
  };
  const auto expect_second = [](LogLevel, std::string_view, void* user) {
    ++calls;
    mixed += user != &second;
  };
  std::atomic<bool> stop{false};
  std::thread speaker([&] {
    while (!stop) detail::log(LogLevel::debug, "x");
  });
  while (calls < 1000) {
    set_log_hook(expect_first, &first);
    set_log_hook(expect_second, &second);
  }
  stop = true;
  speaker.join();
  set_log_hook(nullptr);
  EXPECT_EQ(mixed, 0);
}

}  // namespace
}  // namespace dmaflow
