// fewer_frames: shows every frame for 2 seconds, and passes 5 of them in each second to a function.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

int main() try {
  const auto detect = [](const dmaflow::Frame&) -> dmaflow::Result<void> { return {}; };  // the program's own work
  const auto detector = dmaflow::FunctionSink::create(detect).value();
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *card->output().value()->plane().value(), "display").value();
  dmaflow::StreamRequest five_a_second{.interval = dmaflow::Interval{1, 5}};
  pipeline.connect(*camera, *detector, "detector", {.request = five_a_second}).value();
  pipeline.run({.duration = std::chrono::seconds(2)}).value();
  for (const dmaflow::BranchStats& branch : pipeline.stats().streams.front().branches) {
    std::cout << branch.name << ' ' << branch.delivered << " frames, " << branch.skipped << " skipped\n";
  }
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
