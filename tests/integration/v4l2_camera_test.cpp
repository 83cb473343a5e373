// v4l2::Camera against real kernel cameras (vivid, in the lab).
#include "v4l2_support.hpp"

#include <algorithm>

namespace dmaflow::test {
namespace {

class V4l2Camera : public ::testing::TestWithParam<bool> {
 protected:
  [[nodiscard]] static bool multiplanar() { return GetParam(); }
  static std::unique_ptr<v4l2::Camera> open(v4l2::Camera::Options options = {}) {
    return must(v4l2::Camera::open(vivid(Kind::capture, multiplanar()), options), "open");
  }
};
INSTANTIATE_TEST_SUITE_P(Api, V4l2Camera, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "multiplanar" : "singleplanar"; });

TEST_P(V4l2Camera, StreamsIntoItsOwnBuffers) {
  LeakCheck leaks;
  auto camera = open();
  configure(*camera, {1280, 720}, formats::xrgb8888);
  EXPECT_EQ(camera->output().layout.planes[0].stride, 5120U);
  auto buffers = own_buffers(*camera, 4);
  must(camera->start(buffers), "start");
  const auto frames = capture(*camera, 30);
  EXPECT_EQ(frames.size(), 30U);
  must(camera->stop());
}

TEST_P(V4l2Camera, StreamsIntoImportedBuffers) {
  LeakCheck leaks;
  auto camera = open();
  configure(*camera, {1280, 720}, formats::xrgb8888);
  auto buffers = heap_buffers(camera->output(), 4);
  must(camera->try_output(buffers[0]), "try_output");
  must(camera->start(buffers), "start");
  EXPECT_EQ(capture(*camera, 30).size(), 30U);
  must(camera->stop());
}

}  // namespace
}  // namespace dmaflow::test
