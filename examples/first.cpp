// Shows a camera on a display without copying a byte, until Ctrl-C.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

int main() try {
  const dmaflow::Fd stop = dmaflow::stop_on_signals().value();
  const auto camera = dmaflow::v4l2::Camera::open().value();  // the first that nobody uses
  const auto card = dmaflow::kms::Device::open().value();     // the first with a monitor
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();

  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *screen).value();
  std::cout << pipeline.prepare().value().front().explain() << std::flush;
  pipeline.run({.stop_fd = stop.get()}).value();
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
