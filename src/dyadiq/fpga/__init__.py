"""Hardware: integer programs as netlists of adders, as Verilog, simulated, synthesised and priced.

Modules, from program to silicon: `netlist` (the data structure and its meaning), `adder_graph` (the one adapter to
da4ml), `trace` (program to netlist), `pipeline` (register stages), `verilog` (text), `simulate` (iverilog), `synth`
(yosys, nextpnr), `lut_cost` (what a layer costs at a width). External programs are found by `tools`.
"""
