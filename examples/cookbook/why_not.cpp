// why_not: what was tried so that a camera and a display share memory, and why not each: JSON, for a program to read.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

int main() try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  const auto memory = dmaflow::open_system_memory();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *card->output().value()->plane().value()).value();
  if (memory) pipeline.offer(**memory);
  const auto plans = pipeline.prepare({.formats = {dmaflow::formats::xrgb8888}});
  if (!plans) {
    std::cerr << "error: " << pipeline.refusal()->explain(dmaflow::Detail::all);
    return 1;
  }
  std::cout << plans->front().json() << '\n';
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
