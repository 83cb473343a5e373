// two_cameras: takes 20 frames of each of the two cameras named on the command line, in different sizes.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

int main(int count, char** arguments) try {
  const auto front = dmaflow::v4l2::Camera::open(count > 1 ? arguments[1] : "/dev/video0").value();
  const auto rear = dmaflow::v4l2::Camera::open(count > 2 ? arguments[2] : "/dev/video1").value();
  const auto take = [](const dmaflow::Frame&) -> dmaflow::Result<void> { return {}; };
  const auto left = dmaflow::FunctionSink::create(take).value();
  const auto right = dmaflow::FunctionSink::create(take).value();
  const auto memory = dmaflow::open_system_memory().value();
  dmaflow::Pipeline pipeline;
  pipeline.offer(*memory);
  pipeline.connect(*front, *left, "front").value();
  pipeline.connect(*rear, *right, "rear").value();
  pipeline.request(*front, {.size = dmaflow::Size{1280, 720}}).value();
  pipeline.request(*rear, {.size = dmaflow::Size{640, 480}}).value();
  pipeline.run({.frames = 20}).value();
  std::cout << "front " << front->output().describe() << "\nrear " << rear->output().describe() << '\n';
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
