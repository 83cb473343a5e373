// The pipeline in the loops of other libraries: the programs in examples/loops, as they are.
#include "support.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>

#include <sys/wait.h>

namespace dmaflow::test {
namespace {

/// What a command says, and how it ended.
std::pair<std::string, int> said_by(const std::string& command) {
  std::string said;
  std::FILE* const pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {"popen failed", -1};
  std::array<char, 512> part{};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) said += part.data();
  const int status = ::pclose(pipe);
  return {said, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
}

class Loops : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "shows a camera on a display";
    ASSERT_TRUE(std::filesystem::exists(program_)) << "it was not built";
  }
  std::string program_ = std::string(DMAFLOW_LOOPS "/loop_") + GetParam();
};
INSTANTIATE_TEST_SUITE_P(Of, Loops, testing::Values("glib", "libuv", "sd_event"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(Loops, ShowACamerasFramesUntilTheirTimeIsUp) {
  const auto [said, status] = said_by("'" + program_ + "' 3");
  EXPECT_EQ(status, 0) << said;
  EXPECT_GT(std::atoi(said.c_str()), 10) << said;  // "175 frames shown"
  std::printf("%s", said.c_str());
}

TEST_P(Loops, EndOnCtrlCWithEverythingStopped) {
  const auto [said, status] = said_by("timeout --preserve-status --signal=INT 2 '" + program_ + "' 60");
  EXPECT_EQ(status, 0) << said;
  EXPECT_GT(std::atoi(said.c_str()), 0) << said;
}

}  // namespace
}  // namespace dmaflow::test
