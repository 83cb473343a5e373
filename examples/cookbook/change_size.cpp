// change_size: takes 10 frames of a camera in one size, then 10 in another, in one run.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

int main() try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto sink =
      dmaflow::FunctionSink::create([](const dmaflow::Frame&) -> dmaflow::Result<void> { return {}; }).value();
  const auto memory = dmaflow::open_system_memory().value();
  dmaflow::Pipeline pipeline;
  pipeline.offer(*memory);
  pipeline.connect(*camera, *sink, "viewer").value();
  pipeline.prepare({.size = dmaflow::Size{640, 480}}).value();
  pipeline.start().value();
  const auto take_until = [&](std::uint64_t frames) {
    while (pipeline.stats().streams[0].captured < frames)
      pipeline.step(dmaflow::Deadline::after(std::chrono::seconds(1))).value();
    std::cout << camera->output().describe() << '\n';
  };
  take_until(10);
  // Where the new size is refused, the error says why, and the stream goes on as it was.
  pipeline.reconfigure(*camera, {.size = dmaflow::Size{1280, 720}}, dmaflow::Deadline::after(std::chrono::seconds(1)))
      .value();
  take_until(20);
  pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(1))).value();
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
