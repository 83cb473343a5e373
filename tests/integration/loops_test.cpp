// The pipeline in the loops of other libraries: runs the programs in examples/loops unchanged.
#include "said_by.hpp"
#include "support.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace dmaflow::test {
namespace {

class Loops : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "shows a camera on a display";
    ASSERT_TRUE(std::filesystem::exists(program)) << "it was not built";
  }
  std::string program = std::string(DMAFLOW_LOOPS "/loop_") + GetParam();
};
INSTANTIATE_TEST_SUITE_P(Of, Loops, testing::Values("glib", "libuv", "sd_event"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(Loops, ShowACamerasFramesUntilTheirTimeIsUp) {
  const auto [said, status] = said_by("'" + program + "' 3");
  EXPECT_EQ(status, 0) << said;
  EXPECT_GT(std::atoi(said.c_str()), 10) << said;  // "175 frames shown"
  std::printf("%s", said.c_str());
}

TEST_P(Loops, EndOnCtrlCWithEverythingStopped) {
  const auto [said, status] = said_by("timeout --preserve-status --signal=INT 2 '" + program + "' 60");
  EXPECT_EQ(status, 0) << said;
  EXPECT_GT(std::atoi(said.c_str()), 0) << said;
}

}  // namespace
}  // namespace dmaflow::test
